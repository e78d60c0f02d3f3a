locals {
  # Google's sample. The first run of the flow replaces it in the function, `gcloud run deploy` in the page.
  placeholder = "us-docker.pkg.dev/cloudrun/container/hello"
}

resource "google_cloud_run_v2_service" "function" {
  name                = var.service
  location            = var.region
  description         = "Predicts genres from a poster"
  deletion_protection = false # it holds no data: a run deploys it again

  template {
    service_account = google_service_account.account["function"].email
    scaling {
      max_instance_count = 4
    }
    containers {
      image = local.placeholder
    }
  }

  lifecycle {
    # The flow owns these (infra/cloud_run.py). gcloud sets `client` and its version. An apply that changes the template
    # would send the present revision's name with it, and Google refuses a second revision of that name.
    ignore_changes = [
      annotations,
      build_config,
      client,
      client_version,
      template,
      traffic,
    ]
  }

  depends_on = [google_project_service.api]
}

resource "google_cloud_run_v2_service" "page" {
  name                = "${var.service}-page"
  location            = var.region
  description         = "The page /anime"
  deletion_protection = false

  template {
    service_account = google_service_account.account["page"].email
    scaling {
      max_instance_count = 2
    }
    containers {
      image = local.placeholder
      resources {
        limits = {
          cpu    = "1"
          memory = "1Gi" # uploads are in memory, each as a file and as bytes
        }
        cpu_idle = true # the default only without resources
      }
      env {
        name  = "FUNCTION_URL"
        value = google_cloud_run_v2_service.function.uri
      }
    }
  }

  lifecycle {
    # Not the revision's name: with a kept name, Google would refuse each change of the template.
    ignore_changes = [client, client_version, template[0].containers[0].image]
  }
}
