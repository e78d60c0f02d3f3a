# Everything on Google Cloud that the pipeline expects. infra/README.md, "Google Cloud", lists the commands.
terraform {
  required_version = ">= 1.9"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "6.50.0"
    }
  }
}

provider "google" {
  project = var.project
  region  = var.region
  # Budgets need a project that is charged for the request, if a person's own credentials are used.
  billing_project       = var.project
  user_project_override = true
}
