# One VM runs `anime-genre up`: Prefect, MLflow, TensorBoard, and the flow itself. It has no address on the internet.
# People reach it through an IAP tunnel, it reaches the internet through the NAT.
resource "google_compute_network" "vm" {
  name                    = var.service
  auto_create_subnetworks = false

  depends_on = [google_project_service.api]
}

resource "google_compute_subnetwork" "vm" {
  name                     = var.service
  region                   = var.region
  network                  = google_compute_network.vm.id
  ip_cidr_range            = "10.10.0.0/28"
  private_ip_google_access = true
}

resource "google_compute_firewall" "iap" {
  name          = "${var.service}-iap"
  network       = google_compute_network.vm.id
  source_ranges = ["35.235.240.0/20"] # all tunnels of IAP come from here

  allow {
    protocol = "tcp"
    ports    = ["22"]
  }
}

resource "google_compute_router" "vm" {
  name    = var.service
  region  = var.region
  network = google_compute_network.vm.id
}

resource "google_compute_router_nat" "vm" {
  name                               = var.service
  router                             = google_compute_router.vm.name
  region                             = var.region
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "ALL_SUBNETWORKS_ALL_IP_RANGES"
}

resource "google_compute_instance" "pipeline" {
  name                      = var.service
  zone                      = "${var.region}-${var.zone_letter}"
  machine_type              = var.machine_type
  allow_stopping_for_update = true
  deletion_protection       = var.protect_data

  boot_disk {
    auto_delete = !var.protect_data # the databases of Prefect and MLflow are on it
    initialize_params {
      image = "debian-cloud/debian-12"
      size  = 50
      type  = "pd-balanced"
    }
  }

  network_interface {
    subnetwork = google_compute_subnetwork.vm.id
  }

  service_account {
    email  = google_service_account.account["pipeline"].email
    scopes = ["cloud-platform"]
  }

  shielded_instance_config {
    enable_secure_boot = true
  }

  metadata = {
    block-project-ssh-keys = "TRUE"
    enable-oslogin         = "TRUE"
    startup-script = templatefile("${path.module}/vm.sh", {
      settings            = join("\n", [for name, value in local.settings : "${name}=${value}"])
      repository_url      = var.repository_url
      repository_revision = var.repository_revision
    })
  }

  # The service starts at the first boot, and then needs its rights and the internet.
  depends_on = [
    google_artifact_registry_repository_iam_member.pipeline,
    google_cloud_run_v2_service_iam_member.pipeline,
    google_compute_router_nat.vm,
    google_project_iam_member.pipeline,
    google_service_account_iam_member.pipeline,
    google_storage_bucket_iam_member.pipeline,
  ]
}
