"""Judge final points again in a new process, with a defense that was asked nothing before."""
