"""What models are for: one package a task, all behind the protocol of `tasks.base`."""
