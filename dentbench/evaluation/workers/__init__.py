"""Workers: carry out tasks on batches, in this process or in others."""
