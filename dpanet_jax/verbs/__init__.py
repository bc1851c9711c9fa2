"""The verbs of the command line, a module each: WORDS say what it is for, `define(values, argv)` its flags.

`run(values)` parses no more: it checks, and calls one function of a room. What a verb alone needs it imports
there, so that a list of the verbs waits for none of it.
"""
