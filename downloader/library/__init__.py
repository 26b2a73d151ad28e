"""The library: one function for each thing the project does, as `from downloader import ...`.

::

    downloader/__init__  names, loaded on first use
      consumer           restore, verify, inspect
      publisher          plan, publish, assemble, login, logout, remove
      copying            copy
      layouts            build and push, by an OCI layout directory
      serving            serve
      bundle             images and the program that restores them, in one directory
      program            the whole command line as one file
      connection         how registries and the Hub are reached

The command line calls these functions and nothing below them.
"""
