#!/bin/bash
# Startup script of the VM, a template of vm.tf. It runs as root at each boot, and installs or updates the service.
set -eu
app=/opt/anime-genre
home=/var/lib/anime-genre

apt-get update -q
apt-get install -qy git python3-venv
id anime-genre 2>/dev/null || useradd --system --create-home --home-dir $home anime-genre

cat >/etc/anime-genre.env <<'SETTINGS'
${settings}
SETTINGS

[ -d $app ] || git clone --quiet '${repository_url}' $app
git -C $app fetch --quiet origin '${repository_revision}'
git -C $app checkout --quiet --force --detach FETCH_HEAD
[ -d $app/.venv ] || python3 -m venv $app/.venv
$app/.venv/bin/python -m pip install --quiet -c $app/infra/constraints.txt -e $app

cp $app/infra/terraform/anime-genre.service /etc/systemd/system/
systemctl daemon-reload
systemctl enable anime-genre
systemctl restart anime-genre
