//! Custom CPU templates as typed, in Firecracker's format. Pure data, like all of `raw`.
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};
use std::{fmt, path::PathBuf};

/// CPU features offered to the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum CpuConfig {
    /// A file with a custom CPU template.
    File(PathBuf),
    /// The template itself.
    Inline(CustomCpu),
}

// Derived untagged enums lose the place of a mistake inside them.
impl<'de> Deserialize<'de> for CpuConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FileOrInline;

        impl<'de> Visitor<'de> for FileOrInline {
            type Value = CpuConfig;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a path or an object")
            }

            fn visit_str<E: Error>(self, path: &str) -> Result<CpuConfig, E> {
                Ok(CpuConfig::File(path.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<CpuConfig, A::Error> {
                CustomCpu::deserialize(MapAccessDeserializer::new(map)).map(CpuConfig::Inline)
            }
        }
        deserializer.deserialize_any(FileOrInline)
    }
}

/// A custom CPU template.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CustomCpu {
    /// Numbers of KVM capabilities that must be there; with `!` in front, that are not asked for.
    #[serde(default)]
    #[schemars(example = ["121", "!171"])]
    pub kvm_capabilities: Vec<String>,
    /// Changes to CPUID; x86_64.
    #[serde(default)]
    pub cpuid_modifiers: Vec<CpuidModifier>,
    /// Changes to model-specific registers; x86_64.
    #[serde(default)]
    pub msr_modifiers: Vec<MsrModifier>,
    /// Changes to registers; aarch64.
    #[serde(default)]
    pub reg_modifiers: Vec<ArmRegisterModifier>,
    /// Changes to KVM's vCPU features; aarch64.
    #[serde(default)]
    pub vcpu_features: Vec<VcpuFeature>,
}

/// Changes to one leaf of CPUID.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CpuidModifier {
    /// Leaf, as "0x…", "0b…" or a decimal number in a string.
    #[schemars(example = &"0x1")]
    pub leaf: String,
    /// Subleaf, in the same form.
    #[schemars(example = &"0x0")]
    pub subleaf: String,
    /// KVM's flags of the entry.
    #[schemars(example = 0)]
    pub flags: u64,
    /// Changes per register.
    #[schemars(example = super::example(r#"[{ "register": "ecx", "bitmap": "0b0xxx" }]"#))]
    pub modifiers: Vec<CpuidRegisterModifier>,
}

/// Changes to one register of a CPUID leaf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CpuidRegisterModifier {
    /// The register.
    #[schemars(example = &"ecx")]
    pub register: CpuidRegister,
    /// New bits: "0b" and then 0, 1 or x (unchanged) per bit, at most 32, with `_` where it helps reading.
    #[schemars(example = &"0b0xxx_xxxx")]
    pub bitmap: String,
}

/// A register of a CPUID leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CpuidRegister {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// Changes to a model-specific register.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MsrModifier {
    /// Number of the register, as "0x…", "0b…" or a decimal number in a string.
    #[schemars(example = &"0x10a")]
    pub addr: String,
    /// New bits, at most 64, as in `cpuid_modifiers`.
    #[schemars(example = &"0b0xxx_xxxx")]
    pub bitmap: String,
}

/// Changes to a register of aarch64.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArmRegisterModifier {
    /// KVM's id of the register, as "0x…", "0b…" or a decimal number in a string.
    #[schemars(example = &"0x603000000013c020")]
    pub addr: String,
    /// New bits, at most 128, as in `cpuid_modifiers`.
    #[schemars(example = &"0b0xxx_xxxx")]
    pub bitmap: String,
}

/// Changes to one word of KVM's vCPU features.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VcpuFeature {
    /// Which word.
    #[schemars(example = 0)]
    pub index: u64,
    /// New bits, at most 32, as in `cpuid_modifiers`.
    #[schemars(example = &"0b11x1")]
    pub bitmap: String,
}
