"""The house rules of the course, checked on the files of a checkout; nothing is run.

A rule is a function that yields one sentence for each fault: "file: what is wrong: what to do".
`lesson` has the rules for one lesson, `course` those for files that must agree, `imports` those for
the modules of the package.
"""
