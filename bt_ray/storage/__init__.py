"""Storage that is no folder of this machine: its files, who may write, and copies to work on."""
