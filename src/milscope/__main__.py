"""`python -m milscope` is the command `milscope`."""

from milscope.cli import main

main()
