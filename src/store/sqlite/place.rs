//! Where the file is: not on a network.

use std::{fs, path::Path};

/// File systems whose locks several machines share, or should.
const OF_NETWORKS: [&str; 12] = [
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "glusterfs",
    "lustre",
    "fuse.sshfs",
    "fuse.glusterfs",
];

/// The network file system that a folder is on. `None` where the system does not tell, too.
pub(super) fn network_of(folder: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    network_in(&mounts, folder)
}

fn network_in(mounts: &str, folder: &Path) -> Option<String> {
    let mounts = mounts.lines().filter_map(|line| {
        // The fifth field is the mount point; the file system follows a lone dash.
        let point = line.split(' ').nth(4)?.replace("\\040", " ");
        let kind = line.split_once(" - ")?.1.split(' ').next()?;
        folder.starts_with(&point).then(|| (point.len(), kind.to_owned()))
    });
    // Later mounts lie over earlier ones.
    let (_, kind) = mounts.max_by_key(|(length, _)| *length)?;
    OF_NETWORKS.contains(&kind.as_str()).then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_on_a_network_is_found_below_its_mount_point() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                      40 22 0:40 / /srv/shared\\040files rw shared:1 - nfs4 server:/x rw\n\
                      41 40 8:2 / /srv/shared\\040files/local rw - xfs /dev/sdb rw";
        assert_eq!(network_in(mounts, Path::new("/srv/shared files/app")), Some("nfs4".into()));
        assert_eq!(network_in(mounts, Path::new("/srv/shared files/local/app")), None);
        assert_eq!(network_in(mounts, Path::new("/srv")), None);
    }
}
