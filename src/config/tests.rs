use super::*;

fn six_nodes() -> String {
    std::fs::read_to_string("configs/one_host_config.json").unwrap()
}

#[test]
fn every_checked_in_file_loads_without_a_warning() {
    for entry in std::fs::read_dir("configs").unwrap() {
        let parsed = Overlay::read(&entry.unwrap().path()).unwrap();
        assert_eq!(parsed.warnings, []);
        assert_eq!(parsed.overlay.processes.len(), 6);
    }
}

#[test]
fn an_overlay_reads_back_from_what_it_writes() {
    let overlay = Overlay::parse(&six_nodes(), "six").unwrap().overlay;
    let text = overlay.to_json().to_string();
    assert_eq!(Overlay::parse(&text, "again").unwrap().overlay, overlay);
}
