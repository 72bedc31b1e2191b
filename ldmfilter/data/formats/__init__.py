"""File formats, one module each: it declares the format's names, how it is recognised and how it is read.

To add a format, write a module with a `FORMATS` of `Format`s and add its names to `ldmfilter.data.FORMATS`.
"""
