"""What a run has answered: the journal, the rows, the tables made from them."""
