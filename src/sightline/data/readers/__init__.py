"""Readers, one file a format. A reader is found by its file's name and has two functions:

- ``records(spec, name)`` yields (place, record) for every row of the data set, and raises UserError where the data as a
  whole cannot be read;
- ``row(record, place, spec)`` makes one record a Row, and raises RowError where that record is broken.

One whose data sets have splits without answers says so: ``UNANSWERED = True``. Its rows may then end with the question.
"""
