"""The only code of aioproc that makes system calls. Private: nothing here is an interface."""
