variable "project" {
  description = "Id of an existing Google Cloud project with billing."
  type        = string
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "A project id has 6 to 30 lower-case letters, digits and hyphens, such as my-project-123."
  }
}

variable "billing_account" {
  description = "Id of the project's billing account, which the budget watches."
  type        = string
  validation {
    condition     = can(regex("^[0-9A-F]{6}-[0-9A-F]{6}-[0-9A-F]{6}$", var.billing_account))
    error_message = "A billing account's id looks like 012345-6789AB-CDEF01."
  }
}

variable "email" {
  description = "Your e-mail address. It receives the alerts and is sent to the sites that are read."
  type        = string
  validation {
    condition     = can(regex("^[^\\s@()]+@[^\\s@()]+$", var.email))
    error_message = "Give one e-mail address, such as me@example.org."
  }
}

variable "repository_url" {
  description = "Git address of this repository, which the VM clones. It must be readable without a password."
  type        = string
  validation {
    condition     = can(regex("^https://[^\\s@'\"]+$", var.repository_url))
    error_message = "Give an https:// address without a user name."
  }
}

variable "repository_revision" {
  description = "Branch or tag that the VM checks out at each start."
  type        = string
  default     = "main"
  validation {
    condition     = can(regex("^[\\w./-]+$", var.repository_revision))
    error_message = "Give the name of a branch or tag."
  }
}

variable "region" {
  description = "Region of everything, such as europe-west1."
  type        = string
  default     = "europe-west1"
  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "A region looks like europe-west1, without the letter of a zone."
  }
}

variable "zone_letter" {
  description = "Letter of the VM's zone in the region."
  type        = string
  default     = "b"
  validation {
    condition     = can(regex("^[a-f]$", var.zone_letter))
    error_message = "A zone's letter is one of a to f."
  }
}

variable "bucket" {
  description = "Name of the bucket; null names it after the project."
  type        = string
  default     = null
  validation {
    condition     = var.bucket == null || can(regex("^[a-z0-9][a-z0-9_-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "A bucket's name has 3 to 63 lower-case letters, digits, hyphens and underscores."
  }
}

variable "service" {
  description = "Name of the function's Cloud Run service, and the beginning of the other names."
  type        = string
  default     = "anime-genre"
  validation {
    # The shortest of Google's limits: service accounts have 30 characters, "-pipeline" is added.
    condition     = can(regex("^[a-z][a-z0-9-]{1,19}[a-z0-9]$", var.service))
    error_message = "A name has 3 to 21 lower-case letters, digits and hyphens, and begins with a letter."
  }
}

variable "callers" {
  description = "Who may call the function besides the pipeline and the page, such as user:me@example.org."
  type        = set(string)
  default     = []
  validation {
    condition     = alltrue([for member in var.callers : can(regex("^(user|group|serviceAccount|domain):", member))])
    error_message = "Each caller begins with user:, group:, serviceAccount: or domain:; the function stays private."
  }
}

variable "administrators" {
  description = "Who may log in to the VM and act there as the pipeline, such as user:me@example.org."
  type        = set(string)
  validation {
    condition     = alltrue([for member in var.administrators : can(regex("^(user|group):", member))])
    error_message = "Each administrator begins with user: or group:."
  }
}

variable "page_visitors" {
  description = "Who may open the page. [\"allUsers\"] makes it public."
  type        = set(string)
  default     = []
  validation {
    condition     = alltrue([for member in var.page_visitors : can(regex("^(allUsers$|(user|group|serviceAccount|domain):)", member))])
    error_message = "Each visitor is allUsers, or begins with user:, group:, serviceAccount: or domain:."
  }
}

variable "machine_type" {
  description = "Machine type of the VM. Prefect, MLflow and a training need 8 GB of memory together."
  type        = string
  default     = "e2-standard-2"
  validation {
    condition     = can(regex("^[a-z0-9]+-[a-z]+-[0-9]+$", var.machine_type))
    error_message = "A machine type looks like e2-standard-2."
  }
}

variable "monthly_budget" {
  description = "Costs per month, in the currency of the billing account, at which an e-mail is sent. Nothing is stopped."
  type        = number
  default     = 80
  validation {
    condition     = var.monthly_budget >= 1 && floor(var.monthly_budget) == var.monthly_budget
    error_message = "The budget is a whole number from 1."
  }
}

variable "protect_data" {
  description = "Whether the bucket and the VM's disk are kept from deletion; set it to false before `terraform destroy`."
  type        = bool
  default     = true
}
