locals {
  settings = {
    ANIME_GENRE_CLOUD                    = "google"
    ANIME_GENRE_GOOGLE_PROJECT           = var.project
    ANIME_GENRE_GOOGLE_REGION            = var.region
    ANIME_GENRE_BUCKET                   = google_storage_bucket.data.name
    ANIME_GENRE_SERVICE                  = google_cloud_run_v2_service.function.name
    ANIME_GENRE_FUNCTION_SERVICE_ACCOUNT = google_service_account.account["function"].email
    ANIME_GENRE_BUILD_SERVICE_ACCOUNT    = google_service_account.account["build"].email
    ANIME_GENRE_CONTACT                  = var.email
  }
}

output "settings" {
  description = "The pipeline's settings as lines for a shell: eval \"$(terraform output -raw settings)\"."
  value       = join("\n", [for name, value in local.settings : "export ${name}=${value}"])
}

output "function_url" {
  description = "Address of the private function."
  value       = google_cloud_run_v2_service.function.uri
}

output "page_url" {
  description = "Address of the page."
  value       = google_cloud_run_v2_service.page.uri
}

output "ssh" {
  description = "Command that reaches the VM through an IAP tunnel."
  value       = "gcloud compute ssh ${google_compute_instance.pipeline.name} --project ${var.project} --zone ${google_compute_instance.pipeline.zone} --tunnel-through-iap"
}

output "page_image" {
  description = "Address of the page's image, which infra/page-image.yaml builds."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}/${google_cloud_run_v2_service.page.name}"
}
