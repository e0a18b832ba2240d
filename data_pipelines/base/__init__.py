"""What every command of the project stands on, train's too: composing, errors, command lines."""
