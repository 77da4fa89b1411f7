"""`python -m turnwire_server` is the `turnwire` command."""

from turnwire_server.cli import main

if __name__ == "__main__":
    main()
