"""RecGPT: pre-training, personalised prompts, prompt-tuning, two-step recall."""
