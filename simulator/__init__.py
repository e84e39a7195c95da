"""A simulated short-video service: people, videos, time."""
