//! Generates the bindings from the headers of the Xen release installed here, and compiles the C
//! shim against them.

use std::env;
use std::path::{Path, PathBuf};

/// The libxl API to compile against (libxl.h: `LIBXL_API_VERSION`); 4.20 of Xen still offers it.
const API_VERSION: &str = "0x041400";

/// The functions that rxl calls. All are resolved when the library is loaded, so a missing one is
/// found at once.
const FUNCTIONS: &[&str] = &[
    // Contexts and events.
    "libxl_ctx_alloc",
    "libxl_ctx_free",
    "libxl_childproc_setmode",
    "libxl_ao_abort",
    "libxl_event_wait",
    "libxl_event_free",
    "libxl_evenable_domain_death",
    "libxl_evdisable_domain_death",
    "libxl_evenable_disk_eject",
    // The host.
    "libxl_get_version_info",
    "libxl_get_physinfo",
    "libxl_physinfo_init",
    "libxl_physinfo_dispose",
    // Domains.
    "libxl_name_to_domid",
    "libxl_domid_to_name",
    "libxl_domain_info",
    "libxl_dominfo_init",
    "libxl_dominfo_dispose",
    "libxl_domain_rename",
    "libxl_domain_pause",
    "libxl_domain_unpause",
    "libxl_domain_destroy",
    "libxl_domain_create_new",
    // Domains that have ended.
    "libxl_cdrom_insert",
    "libxl_domain_soft_reset",
    "libxl_domain_core_dump",
    "libxl_domain_preserve",
    "libxl_uuid_generate",
    "libxl_userdata_retrieve",
    "libxl_userdata_unlink",
    // Migration.
    "libxl_domain_suspend",
    "libxl_domain_resume",
    "libxl_domain_create_restore",
    "libxl_domain_restore_params_init",
    "libxl_domain_restore_params_dispose",
    "libxl_domain_config_init",
    "libxl_domain_config_dispose",
    "libxl_domain_config_from_json",
    "libxl_domain_config_to_json",
    "libxl_retrieve_domain_configuration",
    // Memory for a new domain.
    "libxl_domain_need_memory",
    "libxl_set_memory_target",
    "libxl_wait_for_memory_target",
    // Functions of the libraries that libxl is linked with, for what libxl has no public call.
    "xc_interface_open",
    "xc_interface_close",
    "xc_shadow_control",
    // A guest's memory and processor state, for saving it.
    "xc_logdirty_control",
    "xc__hypercall_buffer_alloc_pages",
    "xc__hypercall_buffer_free_pages",
    "xc_get_pfn_type_batch",
    "xc_domain_nr_gpfns",
    "xc_domain_get_tsc_info",
    "xc_domain_hvm_getcontext",
    "xc_hvm_param_get",
    "xc_cpu_policy_init",
    "xc_cpu_policy_destroy",
    "xc_cpu_policy_get_domain",
    "xc_cpu_policy_get_size",
    "xc_cpu_policy_serialise",
    "xc_domain_getinfolist",
    "xenforeignmemory_open",
    "xenforeignmemory_close",
    "xenforeignmemory_map",
    "xenforeignmemory_unmap",
    "xc_domain_save",
    // A new domain's memory and processor state, for restoring it.
    "xc_domain_populate_physmap_exact",
    "xc_domain_decrease_reservation_exact",
    "xc_domain_claim_pages",
    "xc_clear_domain_pages",
    "xc_dom_gnttab_seed",
    "xc_set_domain_cpu_policy",
    "xc_domain_set_tsc_info",
    "xc_domain_hvm_setcontext",
    "xc_hvm_param_set",
    "xs_open",
    "xs_close",
    "xs_read",
    "xs_write",
    "xs_transaction_start",
    "xs_transaction_end",
];

const CONSTANTS: &[&str] = &[
    "LIBXL_SUSPEND_LIVE",
    "LIBXL_SUSPEND_DEBUG",
    "LIBXL_VERSION",
    "XEN_DOMCTL_SHADOW_OP_.*",
    "XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL",
    "XEN_DOMINF_.*",
    "SHUTDOWN_suspend",
    "HVM_PARAM_.*",
    "XGS_POLICY_.*",
];

const ENUMS: &[&str] =
    &["libxl_error", "libxl_shutdown_reason", "xentoollog_level", "xc_stream_type_t"];

/// Types whose layout changes with every Xen release. Only the C shim knows it.
const OPAQUE: &[&str] = &[
    "libxl_domain_config",
    "libxl_domain_create_info",
    "libxl_device_disk",
    "libxl_event",
    "xentoollog_logger",
];

fn main() {
    for path in ["build.rs", "shim/shim.c", "shim/shim.h"] {
        println!("cargo:rerun-if-changed={path}");
    }
    if let Err(what) = build() {
        println!("cargo::error={what}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let library =
        pkg_config::Config::new().cargo_metadata(false).probe("xenlight").map_err(|_| {
            "Xen's headers are missing (pkg-config finds no xenlight): install libxen-dev"
                .to_owned()
        })?;
    let soname = soname(&library.link_paths)?;
    let version = soname.trim_start_matches("libxenlight.so.");
    println!("cargo:rustc-env=LIBXENLIGHT_SONAME={soname}");
    println!("cargo:rustc-env=LIBXENLIGHT_XEN_VERSION={version}");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    bind_libxl(&library.include_paths, &out.join("libxl.rs"))?;
    bind_shim(&library.include_paths, &out.join("shim.rs"))?;
    compile_shim(&library.include_paths)
}

/// The file name of the library that the headers belong to: the development link `libxenlight.so`
/// points to it.
fn soname(link_paths: &[PathBuf]) -> Result<String, String> {
    let libdir = pkg_config::get_variable("xenlight", "libdir").unwrap_or_default();
    link_paths
        .iter()
        .cloned()
        .chain([PathBuf::from(libdir)])
        .filter_map(|dir| std::fs::read_link(dir.join("libxenlight.so")).ok())
        .filter_map(|target| Some(target.file_name()?.to_str()?.to_owned()))
        .find(|name| name.starts_with("libxenlight.so."))
        .ok_or_else(|| {
            "libxenlight.so is missing beside Xen's headers: install libxen-dev".to_owned()
        })
}

fn builder(include_paths: &[PathBuf]) -> bindgen::Builder {
    bindgen::Builder::default()
        .clang_arg(format!("-DLIBXL_API_VERSION={API_VERSION}"))
        .clang_args(include_paths.iter().map(|path| format!("-I{}", path.display())))
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
        .prepend_enum_name(false)
        .layout_tests(true)
        .derive_default(false)
        .wrap_unsafe_ops(true)
        .rust_edition(bindgen::RustEdition::Edition2024)
}

/// Generates the bindings to Xen's libraries. `xc_get_pfn_type_batch` is declared here, because
/// libxenctrl exports it to libxenguest without a public header (tools/libs/ctrl/xc_private.h).
fn bind_libxl(include_paths: &[PathBuf], out: &Path) -> Result<(), String> {
    let mut builder = builder(include_paths)
        .header_contents(
            "libxl-all.h",
            "#include <libxl.h>\n\
             #include <libxl_utils.h>\n\
             #include <xenctrl.h>\n\
             #include <xenforeignmemory.h>\n\
             #include <xenguest.h>\n\
             #include <xenstore.h>\n\
             #include <xen/hvm/params.h>\n\
             int xc_get_pfn_type_batch(xc_interface *xch, uint32_t dom, unsigned int num, \
             xen_pfn_t *);\n",
        )
        .dynamic_library_name("Libxl")
        .dynamic_link_require_all(true);
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for constant in CONSTANTS {
        builder = builder.allowlist_var(constant);
    }
    for name in ENUMS {
        builder = builder.allowlist_type(name);
    }
    for opaque in OPAQUE {
        builder = builder.allowlist_type(opaque).opaque_type(opaque);
    }
    write(builder, out)
}

fn bind_shim(include_paths: &[PathBuf], out: &Path) -> Result<(), String> {
    let builder = builder(include_paths)
        .header("shim/shim.h")
        .allowlist_recursively(false)
        .allowlist_function("xlshim_.*")
        .allowlist_type("xlshim_.*")
        .raw_line("use super::libxl::*;");
    write(builder, out)
}

fn write(builder: bindgen::Builder, out: &Path) -> Result<(), String> {
    let bindings =
        builder.generate().map_err(|e| format!("bindgen failed on Xen's headers: {e}"))?;
    bindings.write_to_file(out).map_err(|e| format!("writing {}: {e}", out.display()))
}

fn compile_shim(include_paths: &[PathBuf]) -> Result<(), String> {
    cc::Build::new()
        .file("shim/shim.c")
        .includes(include_paths)
        .define("LIBXL_API_VERSION", API_VERSION)
        .define("_GNU_SOURCE", None)
        .flag("-std=gnu11")
        .warnings(true)
        .extra_warnings(true)
        .warnings_into_errors(true)
        .try_compile("xlshim")
        .map_err(|e| format!("the C shim does not compile against these headers: {e}"))
}
