"""What operators say: applications, changesets, channels, groups, rollouts; and what they may look at."""
