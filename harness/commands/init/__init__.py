"""`harness init`: from one file of examples, or a folder of documents, to a task, a suite and a run."""
