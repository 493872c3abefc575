"""What people see and order of models: one desk for the API, the console and the keeper."""
