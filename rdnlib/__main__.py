"""`python -m rdnlib` is the command `rdn`."""

from rdnlib.cli import main

main()
