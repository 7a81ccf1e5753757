"""One package per process; a service never imports another one."""
