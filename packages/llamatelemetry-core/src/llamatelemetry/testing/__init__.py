"""What plugin authors test against: contracts and checkers, ours and theirs alike."""
