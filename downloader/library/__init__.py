"""The library: one function for each thing the project does, as `from downloader import ...`.

::

    downloader/__init__  names, loaded on first use
      consumer           restore, verify, inspect
      publisher          plan, publish, copy, login, logout, remove
      connection         how registries and the Hub are reached

The command line calls these functions and nothing below them.
"""
