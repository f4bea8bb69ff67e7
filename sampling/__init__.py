"""The schedule, the hand-over between the two experts, and the checks that come before any model is loaded."""
