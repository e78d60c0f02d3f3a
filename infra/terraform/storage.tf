resource "google_storage_bucket" "data" {
  name                        = coalesce(var.bucket, "${var.project}-${var.service}")
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = !var.protect_data

  versioning {
    enabled = true
  }

  # By default, Google keeps and bills deleted objects for seven more days. The versions are kept long enough.
  soft_delete_policy {
    retention_duration_seconds = 0
  }

  # Tables such as parts-2.csv are replaced. Their earlier versions can be restored for a month.
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      days_since_noncurrent_time = 30
      with_state                 = "ARCHIVED"
    }
  }

  # Checkpoints of trainings on another machine are replaced every minute, and have 140 MB with ResNet18. They are the
  # files with this ending, in the folders of all collections.
  lifecycle_rule {
    action {
      type = "Delete"
    }
    condition {
      days_since_noncurrent_time = 1
      with_state                 = "ARCHIVED"
      matches_suffix             = [".pt"]
    }
  }

  lifecycle_rule {
    action {
      type = "AbortIncompleteMultipartUpload"
    }
    condition {
      age = 7
    }
  }

  depends_on = [google_project_service.api]
}

resource "google_artifact_registry_repository" "images" {
  location      = var.region
  repository_id = "cloud-run-source-deploy"
  format        = "DOCKER"
  description   = "Images of the function and of the page"

  # Running revisions keep their image: Cloud Run has a copy. A rollback to one without an image builds it again.
  cleanup_policies {
    id     = "keep-five-newest"
    action = "KEEP"
    most_recent_versions {
      keep_count = 5
    }
  }

  cleanup_policies {
    id     = "delete-others"
    action = "DELETE"
    condition {
      tag_state  = "ANY"
      older_than = "86400s" # a build that is running does not lose its layers
    }
  }

  depends_on = [google_project_service.api]
}
