"""Everything that parses what strangers send, fed with what they might.

Each target takes bytes and may raise only errors of this project. ``tests/oci/test_parsers.py``
runs them over hypothesis and over ``seeds/``, where what was found is kept; a coverage-guided
search for more::

    python -m tests.fuzz manifest -max_total_time=60
"""
