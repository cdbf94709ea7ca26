"""The version of the contract, major.minor.  A plugin for 1.x runs on every 1.y with y >= x."""

CONTRACT = "1.0"
