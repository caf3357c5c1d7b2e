"""``python -m mrm`` is the command ``mrm``, by this interpreter and with its options."""

from mrm.tools.cli import main

if __name__ == "__main__":
    main()
