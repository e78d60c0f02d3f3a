#!/bin/bash
# Startup script of the VM, a template of vm.tf. It runs as root at each boot, and installs or updates the service.
set -eu
app=/opt/anime-genre
home=/var/lib/anime-genre

# Tried until they are there: apt may find the network or its lock not free yet.
until dpkg -s git python3-venv >/dev/null 2>&1; do
  apt-get update -q && apt-get install -qy git python3-venv || sleep 30
done
id anime-genre 2>/dev/null || useradd --system --create-home --home-dir $home anime-genre

cat >/etc/anime-genre.env <<'SETTINGS'
ANIME_GENRE_WORKSPACE=/var/lib/anime-genre/workspace
${settings}
SETTINGS

# For people: the command as the service's user, with its settings.
cat >/usr/local/bin/anime-genre <<'COMMAND'
#!/bin/sh
cd /var/lib/anime-genre
exec sudo -u anime-genre env $(cat /etc/anime-genre.env) /opt/anime-genre/.venv/bin/anime-genre "$@"
COMMAND
chmod +x /usr/local/bin/anime-genre

# The service's user reads the version of the code, and git refuses the repository of another user.
git config --system --replace-all safe.directory $app
[ -d $app ] || git clone --quiet '${repository_url}' $app
git -C $app fetch --quiet origin '${repository_revision}'
git -C $app checkout --quiet --force --detach FETCH_HEAD
[ -d $app/.venv ] || python3 -m venv $app/.venv
$app/.venv/bin/python -m pip install --quiet -c $app/infra/constraints.txt -e "$app[pipeline]"

cp $app/infra/terraform/anime-genre.service /etc/systemd/system/
systemctl daemon-reload
systemctl enable anime-genre
systemctl restart anime-genre
