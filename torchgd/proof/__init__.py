"""Is it right? Trajectories, derivatives and answers, held against what does not err alike."""
