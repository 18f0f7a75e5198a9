//! Rules of custom CPU templates: numbers and bitmaps in strings. Pure, like all of `check`.
use super::super::raw::{CpuConfig, CustomCpu};
use super::super::{error::ConfigError, shown::quoted};

/// Checks the form of a template; what a CPU can do is not asked here.
pub(super) fn cpu_config(config: Option<&CpuConfig>) -> Result<(), ConfigError> {
    match config {
        None => Ok(()),
        Some(CpuConfig::File(file)) => super::path("cpu-config", file).map(drop),
        Some(CpuConfig::Inline(cpu)) => custom(cpu),
    }
}

fn custom(cpu: &CustomCpu) -> Result<(), ConfigError> {
    for (index, capability) in cpu.kvm_capabilities.iter().enumerate() {
        let digits = capability.strip_prefix('!').unwrap_or(capability);
        if !is_digits(digits, 10) || digits.parse::<u32>().is_err() {
            return Err(ConfigError::rule(
                format!("cpu-config.kvm_capabilities[{index}]"),
                quoted(capability),
                "a capability is a decimal number, perhaps with ! in front",
                "Write it like \"121\" or \"!121\"",
            ));
        }
    }
    for (index, leaf) in cpu.cpuid_modifiers.iter().enumerate() {
        let at = format!("cpu-config.cpuid_modifiers[{index}]");
        number(&format!("{at}.leaf"), &leaf.leaf, 32)?;
        number(&format!("{at}.subleaf"), &leaf.subleaf, 32)?;
        fits_32(&format!("{at}.flags"), leaf.flags)?;
        for (index, register) in leaf.modifiers.iter().enumerate() {
            bitmap(&format!("{at}.modifiers[{index}].bitmap"), &register.bitmap, 32)?;
        }
    }
    for (index, msr) in cpu.msr_modifiers.iter().enumerate() {
        let at = format!("cpu-config.msr_modifiers[{index}]");
        number(&format!("{at}.addr"), &msr.addr, 32)?;
        bitmap(&format!("{at}.bitmap"), &msr.bitmap, 64)?;
    }
    for (index, register) in cpu.reg_modifiers.iter().enumerate() {
        let at = format!("cpu-config.reg_modifiers[{index}]");
        number(&format!("{at}.addr"), &register.addr, 64)?;
        bitmap(&format!("{at}.bitmap"), &register.bitmap, 128)?;
    }
    for (index, feature) in cpu.vcpu_features.iter().enumerate() {
        let at = format!("cpu-config.vcpu_features[{index}]");
        fits_32(&format!("{at}.index"), feature.index)?;
        bitmap(&format!("{at}.bitmap"), &feature.bitmap, 32)?;
    }
    Ok(())
}

/// A number in a string, `0x…`, `0b…` or decimal, of at most `bits` bits.
fn number(at: &str, text: &str, bits: u32) -> Result<(), ConfigError> {
    let (digits, radix) = match (text.strip_prefix("0x"), text.strip_prefix("0b")) {
        (Some(digits), _) => (digits, 16),
        (_, Some(digits)) => (digits, 2),
        _ => (text, 10),
    };
    // `from_str_radix` alone would take a sign.
    let value = u64::from_str_radix(digits, radix)
        .ok()
        .filter(|_| is_digits(digits, radix));
    if value.is_some_and(|value| u64::BITS - value.leading_zeros() <= bits) {
        return Ok(());
    }
    Err(ConfigError::rule(
        at,
        quoted(text),
        format!("it is a number of at most {bits} bits in a string"),
        "Write it like \"0x1f\", \"0b11\" or \"31\"",
    ))
}

fn is_digits(text: &str, radix: u32) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_digit(radix))
}

/// New bits: `0b` and then at most `bits` of 0, 1 and x.
fn bitmap(at: &str, text: &str, bits: usize) -> Result<(), ConfigError> {
    let digits = text.strip_prefix("0b").unwrap_or_default();
    let count = digits.chars().filter(|c| *c != '_').count();
    if (1..=bits).contains(&count) && digits.chars().all(|c| matches!(c, '0' | '1' | 'x' | '_')) {
        return Ok(());
    }
    Err(ConfigError::rule(
        at,
        quoted(text),
        format!("a bitmap is 0b and then 1 to {bits} of the characters 0, 1 and x"),
        "Write it like \"0b01xx\"; the last character is bit 0 and x leaves a bit as it is",
    ))
}

fn fits_32(at: &str, value: u64) -> Result<(), ConfigError> {
    match u32::try_from(value) {
        Ok(_) => Ok(()),
        Err(_) => Err(ConfigError::rule(
            at,
            value.to_string(),
            format!("it has 32 bits, so at most {}", u32::MAX),
            "Set a smaller number",
        )),
    }
}
