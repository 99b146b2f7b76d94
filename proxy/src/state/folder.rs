//! What is written in the folder right now? A file or a folder of policy files, read as a whole and within bounds.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use countersign_policy::source::{self, Gathering, MAX_FILE_BYTES, MAX_FOLDER_DEPTH, MAX_FOLDER_FILES};
use countersign_policy::{Problem, Source};
use walkdir::{DirEntry, WalkDir};

use super::watch::stamp;

/// Reads that a writer interrupted are done again.
const ATTEMPTS: usize = 5;

/// Every document of the file or folder, in the order of file names. Blocks.
pub fn read(path: &Path) -> Result<Vec<Source>, Vec<Problem>> {
    let mut attempt = 1;
    loop {
        let before = stamp(path);
        let result = read_once(path);
        if stamp(path) == before || attempt == ATTEMPTS {
            return result;
        }
        attempt += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The policy files of a folder, or the one file itself. Symlinks are followed, since ConfigMaps are made of them; names
/// that begin with a dot are skipped for the same reason.
pub(crate) fn files(path: &Path) -> Vec<Result<PathBuf, (PathBuf, String)>> {
    let visible = |entry: &DirEntry| {
        entry.depth() == 0 || !entry.file_name().to_str().is_some_and(|name| name.starts_with('.'))
    };
    let walk = WalkDir::new(path).follow_links(true).max_depth(MAX_FOLDER_DEPTH).sort_by_file_name();
    let mut files = Vec::new();
    for entry in walk.into_iter().filter_entry(visible) {
        match entry {
            Ok(entry) if is_policy_file(&entry) => files.push(Ok(entry.into_path())),
            Ok(_) => {}
            Err(error) => {
                let file = error.path().unwrap_or(path);
                let message = error.io_error().map_or_else(|| error.to_string(), |error| error.to_string());
                files.push(Err((file.to_owned(), format!("cannot be read: {message}"))));
            }
        }
        // One more, so that it is told.
        if files.len() > MAX_FOLDER_FILES {
            break;
        }
    }
    files
}

fn is_policy_file(entry: &DirEntry) -> bool {
    // What was named on the command line is policy, whatever its name.
    let named = entry.depth() == 0;
    !entry.file_type().is_dir() && (named || entry.file_name().to_str().is_some_and(source::is_policy_file))
}

fn read_once(path: &Path) -> Result<Vec<Source>, Vec<Problem>> {
    let mut gathering = Gathering::new(path.display());
    for file in files(path) {
        let (file, content) = match file {
            Ok(file) => {
                let content = read_file(&file).map_err(|error| format!("cannot be read: {error}"));
                (file, content)
            }
            Err((file, message)) => (file, Err(message)),
        };
        if !gathering.add(file.display(), content) {
            break;
        }
    }
    gathering.finish()
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // Asked before it is opened: opening a FIFO would wait for its writer.
    if !path.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    // One byte more, so that what is too large is told and not cut off.
    let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let name = |file: Result<PathBuf, (PathBuf, String)>| match file {
            Ok(file) => file.strip_prefix(path).unwrap().display().to_string(),
            Err((_, message)) => format!("! {message}"),
        };
        files(path).into_iter().map(name).collect()
    }

    #[test]
    fn finds_policy_files_at_any_depth_but_hidden_ones() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("team/deep")).unwrap();
        fs::create_dir(root.path().join(".git")).unwrap();
        for file in
            ["b.yaml", "a.yml", "c.json", "notes.txt", ".hidden.yaml", ".git/x.yaml", "team/deep/d.yaml"]
        {
            fs::write(root.path().join(file), "").unwrap();
        }
        assert_eq!(names(root.path()), ["a.yml", "b.yaml", "c.json", "team/deep/d.yaml"]);
        let one = root.path().join("notes.txt");
        assert_eq!(files(&one).len(), 1, "a file that is named is read");
    }

    #[test]
    fn reads_a_config_map_once() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("..2026")).unwrap();
        fs::write(root.path().join("..2026/a.yaml"), "").unwrap();
        symlink("..2026", root.path().join("..data")).unwrap();
        symlink("..data/a.yaml", root.path().join("a.yaml")).unwrap();
        assert_eq!(names(root.path()), ["a.yaml"]);
    }

    #[test]
    fn tells_what_cannot_be_read() {
        let root = tempfile::tempdir().unwrap();
        let missing = read(&root.path().join("missing")).unwrap_err();
        assert!(missing[0].to_string().contains("missing: cannot be read: No such file"), "{}", missing[0]);

        symlink("nowhere", root.path().join("broken.yaml")).unwrap();
        symlink(".", root.path().join("loop")).unwrap();
        let found = names(root.path());
        assert_eq!(found.iter().filter(|name| name.starts_with('!')).count(), 2, "{found:?}");
    }

    #[test]
    fn bounds_a_file() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("big.yaml"), vec![b'#'; MAX_FILE_BYTES + 1]).unwrap();
        let problems = read(root.path()).unwrap_err();
        assert!(problems[0].message.contains("is larger than"), "{}", problems[0]);
    }
}
