locals {
  accounts = {
    pipeline = "Runs the flow: collects, trains, builds and deploys"
    build    = "Runs the builds of Cloud Build"
    function = "Identity of the function"
    page     = "Identity of the page"
  }
  members = { for name, account in google_service_account.account : name => "serviceAccount:${account.email}" }
}

resource "google_service_account" "account" {
  for_each     = local.accounts
  account_id   = "${var.service}-${each.key}"
  display_name = each.value

  depends_on = [google_project_service.api]
}

# `anime-genre doctor` checks exactly these rights of the pipeline (infra/rights.py).
resource "google_storage_bucket_iam_member" "pipeline" {
  bucket = google_storage_bucket.data.name
  role   = "roles/storage.objectUser"
  member = local.members["pipeline"]
}

resource "google_artifact_registry_repository_iam_member" "pipeline" {
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.reader"
  member     = local.members["pipeline"]
}

resource "google_project_iam_member" "pipeline" {
  # Builds and operations have no policies of their own.
  for_each = toset(["roles/cloudbuild.builds.editor", "roles/run.viewer"])
  project  = var.project
  role     = each.value
  member   = local.members["pipeline"]
}

resource "google_service_account_iam_member" "pipeline" {
  for_each           = toset(["build", "function"])
  service_account_id = google_service_account.account[each.value].name
  role               = "roles/iam.serviceAccountUser"
  member             = local.members["pipeline"]
}

resource "google_cloud_run_v2_service_iam_member" "pipeline" {
  for_each = toset(["roles/run.developer", "roles/run.invoker"])
  name     = google_cloud_run_v2_service.function.name
  location = var.region
  role     = each.value
  member   = local.members["pipeline"]
}

# Builds read their source from the bucket, write the image and a log.
resource "google_storage_bucket_iam_member" "build" {
  bucket = google_storage_bucket.data.name
  role   = "roles/storage.objectViewer"
  member = local.members["build"]
}

resource "google_artifact_registry_repository_iam_member" "build" {
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.writer"
  member     = local.members["build"]
}

resource "google_project_iam_member" "build" {
  project = var.project
  role    = "roles/logging.logWriter"
  member  = local.members["build"]
}

# The function reads its bundle, deployments/ and posters. A missing poster is only then "not found", and not
# "forbidden", if it may also list the bucket: so a condition on names would not do.
resource "google_storage_bucket_iam_member" "function" {
  bucket = google_storage_bucket.data.name
  role   = "roles/storage.objectViewer"
  member = local.members["function"]
}

resource "google_cloud_run_v2_service_iam_member" "caller" {
  for_each = var.callers
  name     = google_cloud_run_v2_service.function.name
  location = var.region
  role     = "roles/run.invoker"
  member   = each.value
}

resource "google_cloud_run_v2_service_iam_member" "page" {
  name     = google_cloud_run_v2_service.function.name
  location = var.region
  role     = "roles/run.invoker"
  member   = local.members["page"]
}

resource "google_cloud_run_v2_service_iam_member" "visitor" {
  for_each = var.page_visitors
  name     = google_cloud_run_v2_service.page.name
  location = var.region
  role     = "roles/run.invoker"
  member   = each.value
}

# People reach the VM through a tunnel, log in, and use the account that is attached to it.
resource "google_project_iam_member" "tunnel" {
  for_each = var.administrators
  project  = var.project
  role     = "roles/iap.tunnelResourceAccessor"
  member   = each.value
}

resource "google_project_iam_member" "login" {
  for_each = var.administrators
  project  = var.project
  role     = "roles/compute.osAdminLogin"
  member   = each.value
}

resource "google_service_account_iam_member" "administrator" {
  for_each           = var.administrators
  service_account_id = google_service_account.account["pipeline"].name
  role               = "roles/iam.serviceAccountUser"
  member             = each.value
}
