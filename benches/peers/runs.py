"""Counts runs over all processes: each appends a byte to a file."""

import os

file = os.open(os.environ["RUNS"], os.O_CREAT | os.O_APPEND | os.O_RDWR)


def count():
    os.write(file, b".")


def counted():
    return os.fstat(file).st_size
