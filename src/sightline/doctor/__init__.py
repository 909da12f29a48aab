"""The doctor: from the records of a run, finished, crashed or still running, to what is wrong and what to do."""
