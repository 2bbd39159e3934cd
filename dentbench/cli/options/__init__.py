"""The options of the commands, by the panel of ``--help`` that shows them."""
