"""The system files of some boards, as their kernels show them: {path below /: content}.

Names and values as in NVIDIA's Jetson Linux Developer Guide and in dumps that owners of these boards published; EAGAIN
stands for a file that exists and cannot be read, as a switched-off unit's temperature.
"""

EAGAIN = None


def zones(**degrees):
    """Returns the files of thermal_zone0, 1, ... with these names, whose underscores stand for hyphens."""
    files = {}
    for index, (name, value) in enumerate(degrees.items()):
        files[f"sys/class/thermal/thermal_zone{index}/type"] = name.replace("_", "-") + "\n"
        files[f"sys/class/thermal/thermal_zone{index}/temp"] = EAGAIN if value is None else f"{value}\n"
    return files


def coolers(**states):
    files = {}
    for index, (name, value) in enumerate(states.items()):
        files[f"sys/class/thermal/cooling_device{index}/type"] = name.replace("_", "-") + "\n"
        files[f"sys/class/thermal/cooling_device{index}/cur_state"] = f"{value}\n"
    return files


def policy(number, governor, now, low, high):
    folder = f"sys/devices/system/cpu/cpufreq/policy{number}"
    return {
        f"{folder}/scaling_governor": f"{governor}\n",
        f"{folder}/scaling_cur_freq": f"{now}\n",
        f"{folder}/scaling_min_freq": f"{low}\n",
        f"{folder}/scaling_max_freq": f"{high}\n",
    }


def devfreq(name, now, low, high):
    folder = f"sys/class/devfreq/{name}"
    return {f"{folder}/cur_freq": f"{now}\n", f"{folder}/min_freq": f"{low}\n", f"{folder}/max_freq": f"{high}\n"}


def over_currents(chip, *counts):
    files = {f"sys/class/hwmon/hwmon{chip}/name": "soctherm_oc\n"}
    for number, count in enumerate(counts, 1):
        files[f"sys/class/hwmon/hwmon{chip}/oc{number}_event_cnt"] = f"{count}\n"
        files[f"sys/class/hwmon/hwmon{chip}/oc{number}_throt_en"] = "1\n"
    return files


def jetson_linux(release):
    """Returns the file of a release such as "36.4.3"; "" is the empty file of a container."""
    major, _, rest = release.partition(".")
    line = f"# R{major} (release), REVISION: {rest}, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
    return {"etc/nv_tegra_release": line if release else ""}


def device_tree(model, soc):
    return {"proc/device-tree/model": f"{model}\0", "proc/device-tree/compatible": f"nvidia,p0\0nvidia,{soc}\0"}


NANO = {  # JetPack 4.6, 10 W mode, with jetson_clocks; PMIC-Die always tells 100 degrees
    "etc/nv_tegra_release": "# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64\n",
    "etc/nvpmodel.conf": "# MAXN is the NONE power model to release all constraints\n"
    "< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\nGPU MAX_FREQ -1\n\n< POWER_MODEL ID=1 NAME=5W >\n"
    "CPU_ONLINE CORE_0 1\nCPU_A57 MAX_FREQ 918000\n\n< PM_CONFIG DEFAULT=0 >\n",
    "var/lib/nvpmodel/status": "pmode:0000",
    **policy(0, "schedutil", 1479000, 1479000, 1479000),
    **devfreq("57000000.gpu", 921600000, 921600000, 921600000),
    **zones(AO_therm=41500, CPU_therm=34000, GPU_therm=31000, PLL_therm=31500, PMIC_Die=100000, thermal_fan_est=33000),
    **coolers(pwm_fan=1, gpu_balanced=0, cpu_balanced=0),
}
XAVIER = {  # JetPack 5, no mode chosen yet: the default of the configuration
    "etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\nGPU MAX_FREQ -1\n< POWER_MODEL ID=2 NAME=MODE_15W >\n"
    "GPU MAX_FREQ 670000000\n< PM_CONFIG DEFAULT=2 >\n",
    **policy(0, "schedutil", 1190400, 1190400, 1190400),
    **policy(2, "schedutil", 729600, 1190400, 1190400),
    **devfreq("17000000.gv11b", 114750000, 114750000, 675750000),
    **devfreq("15340000.vic", 100000000, 100000000, 600000000),
    **zones(CPU_therm=38500, GPU_therm=36500, AUX_therm=36000, AO_therm=37000, PMIC_Die=100000, Tdiode_tegra=38250),
}
ORIN = {  # an Orin Nano Super of JetPack 6.2, hot; its camera units are off
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed "
    "Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\nTARGET_USERSPACE_LIB_DIR=nvidia\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n"
    "< POWER_MODEL ID=2 NAME=MAXN_SUPER >\nCPU_ONLINE CORE_0 1\n< PM_CONFIG DEFAULT=1 >\n",
    "var/lib/nvpmodel/status": "pmode:0002 fmode:quiet",
    **policy(0, "schedutil", 1728000, 729600, 1728000),
    **policy(4, "schedutil", 1344000, 729600, 1728000),
    **devfreq("17000000.gpu", 1020000000, 306000000, 1020000000),
    **devfreq("154c0000.nvenc", 115200000, 115200000, 1011200000),
    **zones(cpu_thermal=71218, gpu_thermal=72406, cv0_thermal=None, cv1_thermal=None, soc0_thermal=69000,
            tj_thermal=72406),
    **coolers(pwm_fan=3, cpu_throttle_alert=0, gpu_throttle_alert=1, hot_surface_alert=1),
    **over_currents(3, 0, 15, 37),
}  # fmt: skip
THOR = {  # JetPack 7, GPU off: no temperature of it
    "etc/nv_tegra_release": "# R38 (release), REVISION: 4.0, GCID: 43443517, BOARD: generic, EABI: aarch64\n",
    "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n< PM_CONFIG DEFAULT=1 >\n",
    "var/lib/nvpmodel/status": "pmode:0001",
    **policy(0, "schedutil", 972000, 972000, 2601000),
    **devfreq("gpu-gpc-0", 1575000000, 315000000, 1575000000),
    **devfreq("gpu-nvd-0", 1692000000, 360000000, 1692000000),
    **devfreq("bwmgr", 4266000000, 665600000, 4266000000),
    **zones(gpu_thermal=None, cpu_thermal=59800, soc012_thermal=59100, soc345_thermal=58700, tj_thermal=59800),
    **coolers(cpufreq_cpu0=0, gpu_throttle_alert=0, devfreq_gpu_gpc_0=18, pwm_fan=2),
    **over_currents(5, 0, 0, 179),
}
PC = {  # an Intel desktop
    **policy(0, "powersave", 4700000, 800000, 5000000),
    **policy(1, "powersave", 800000, 800000, 5000000),
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
    "sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": "5\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "12\n",
    "sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count": "12\n",
    **zones(x86_pkg_temp=51000, acpitz=27800),
    **coolers(Processor=0, intel_powerclamp=-1),
    "sys/class/hwmon/hwmon2/name": "coretemp\n",
    "sys/class/hwmon/hwmon2/temp1_input": "51000\n",
    "sys/class/hwmon/hwmon2/temp2_input": "53000\n",
}
BOARDS = {"nano": NANO, "xavier": XAVIER, "orin": ORIN, "thor": THOR, "pc": PC}


def write_board(root, files):
    """Writes the files below `root`; a file that cannot be read becomes a folder, which cannot be read either."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(exist_ok=True) if content is EAGAIN else path.write_text(content)
    return root
