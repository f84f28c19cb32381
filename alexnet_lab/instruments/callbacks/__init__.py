"""A Panel as a callback of other people's trainers; each module needs the trainer that it is for, and nothing more."""
