"""Every method of conf/pruner on the same questions: who takes part, what they answered, the table and the picture."""
