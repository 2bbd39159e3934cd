"""What a user's model or defense is made of: its code and its settings, as a hash."""
