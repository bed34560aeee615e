//! Strategies on a made-up objective.
