"""The figures of docs/choosing-a-schedule.md: what is predicted, its pictures and its tables."""
