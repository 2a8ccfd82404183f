"""One loaded model on one provider: choosing, opening, checking and running it."""
