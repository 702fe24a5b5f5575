"""`python -m idefiq` is the `idefiq` command."""

from idefiq.cli import main

main()
