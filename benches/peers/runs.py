"""Counts the runs of all processes of a service. Each run appends a byte to a file."""

import os

file = os.open(os.environ["RUNS"], os.O_CREAT | os.O_APPEND | os.O_RDWR)


def count():
    os.write(file, b".")


def counted():
    return os.fstat(file).st_size
